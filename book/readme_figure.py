"""Draw README's figure, the phase diagram of the noisy memory, from the committed record: python book/readme_figure.py."""

from pathlib import Path

import sims

TARGET = Path(__file__).parent / "_static" / "phase_diagram.png"

if __name__ == "__main__":
    sims.run("memory_phases").figure("phase_diagram").savefig(TARGET, dpi=100)
    print(TARGET)
