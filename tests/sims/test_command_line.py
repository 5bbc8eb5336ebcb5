"""The command line: what a newcomer types, right and wrong."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sims import contract
from sims.__main__ import main

pytestmark = pytest.mark.usefixtures("store")


def test_list_tells_questions_and_costs(
    toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contract, "experiment_names", lambda: [])
    assert main(["list"]) == 0
    assert "no experiments so far" in capsys.readouterr().out
    assert main(["run", toy, "--scale", "smoke", "--record"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(contract, "experiment_names", lambda: [toy])
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "Does the mean of noisy numbers" in out
    assert "12 runs = 4 configs × 3 seeds; recorded: 0.0 s of runs on cpu\n" in out
    assert "60 runs = 3 configs × 20 seeds; not recorded" in out


def test_run_prints_claims_and_agreement(store: Path, toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", toy, "--scale", "smoke", "--seeds", "2", "--set", "centre=0.5,1.5", "--set", "marks=5"]
    assert main([*command, "--dry-run"]) == 0
    assert "8 runs (4 configs × 2 seeds), 0 stored, 8 to make" in capsys.readouterr().out
    assert not store.exists()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "8 runs made, 0 from the store" in out
    assert "T1     holds" in out
    assert "agreement: worst z" in out
    assert main([*command, "--dry-run"]) == 0
    assert "8 stored, 0 to make" in capsys.readouterr().out


def test_run_reads_a_committed_record_and_says_so(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", toy, "--scale", "smoke", "--record"]) == 0
    assert "recorded in" in capsys.readouterr().out
    assert main(["run", toy, "--scale", "smoke"]) == 0
    assert "from the committed record" in capsys.readouterr().out


def test_check_passes_the_truth_and_tells_an_error(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", toy, "--examples", "8", "--seeds", "4"]) == 0
    out = capsys.readouterr().out
    assert "8 random problems (seed 0), 16 numbers compared: agrees" in out
    repeat = shlex.split(out.splitlines()[-1].partition(": ")[2])
    assert repeat[:3] == ["python", "-m", "sims"]
    assert main(repeat[3:]) == 0
    again = capsys.readouterr().out
    assert "T1     not measured" in again  # its check needs the axis that one problem does not have
    worst = next(line for line in out.splitlines() if line.startswith("worst problem")).partition(": ")[2]
    assert f"agreement: {worst}" in again
    wrong = tmp_path / "wrong.py"
    wrong.write_text(Path(toy).read_text().replace("np.full(2, config.centre)}", "np.full(2, config.centre + 9)}")
                     .replace('np.full(2, config.centre))}', 'np.full(2, config.centre + 9))}'))  # fmt: skip
    assert main(["check", str(wrong), "--examples", "3", "--seeds", "9"]) == 1
    assert "DISAGREES" in capsys.readouterr().out


def test_claims_as_json_is_json_alone(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", toy, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row) == [
        "id",
        "paper",
        "statement",
        "measured",
        "interval",
        "predicted",
        "verdict",
        "experiment",
        "scale",
    ]
    assert (row["verdict"], row["measured"], row["scale"]) == ("not_measured", None, None)
    assert main(["run", toy, "--scale", "smoke"]) == 0
    capsys.readouterr()
    assert main(["claims", toy]) == 0
    assert "1 claims: 1 holds" in capsys.readouterr().out


def test_claims_write_the_ledger(store: Path, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "experiment_names", lambda: [toy])
    assert main(["claims", "--write"]) == 0
    (row,) = json.loads((store.parent / "recorded" / "verdicts.json").read_text())
    assert row["id"] == "T1"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("run nothing", "experiment is 'nothing'; it must be one of"),
        ("run TOY --scale huge", "scale is 'huge'; it must be one of: smoke, laptop, paper"),
        ("run TOY --set mean=1", "field is 'mean'; it must be one of: centre"),
        ("run TOY --set centre=abc", "field centre is 'abc'; it must be a number"),
        ("run TOY --set centre", "--set is 'centre'; it must be FIELD=VALUE"),
        ("run TOY --set noise_level=-1", "noise_level is -1.0; it must be at least 0"),
        ("run TOY --device tpu", "device is 'tpu'; it must be cpu"),
        ("run TOY --device tpu --dry-run", "device is 'tpu'; it must be cpu"),
        ("run TOY --seeds 0", "seeds is 0"),
        ("run TOY --workers 0", "workers is 0"),
        ("run TOY --record --seeds 3", "--record is for a scale's own preset"),
        ("check TOY --examples 0", "--examples is 0"),
        ("check TOY --seed -1", "seed is -1"),
        ("claims TOY --write", "--write is for the whole ledger"),
        ("claims nothing", "experiment is 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    toy: str, capsys: pytest.CaptureFixture[str], words: str, answer: str
) -> None:
    assert main([toy if word == "TOY" else word for word in words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m sims: error: ")
    assert answer in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", ["", "walk", "run", "run TOY --seeds x", "run TOY --colour red"])
def test_the_parser_has_status_2_too(toy: str, capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([toy if word == "TOY" else word for word in words.split()])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_an_unwritable_results_folder_has_status_2(
    tmp_path: Path, toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path / "file"))
    assert main(["run", toy, "--scale", "smoke"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet(toy: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m sims run {shlex.quote(toy)} --scale smoke | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("words", ["", "list", "run", "check", "claims"])
def test_help_explains(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), "--help"])
    assert stopped.value.code == 0
    assert "usage: python -m sims" in capsys.readouterr().out


def test_training_that_diverges_says_its_step_and_has_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "two_layer_training", "--scale", "smoke", "--seeds", "1", "--set", "learning_rate=1e9"]
    assert main([*words, "--set", "n_evaluation=4", "--set", "width=8"]) == 1
    assert re.fullmatch(r".*error: the loss is not finite at step \d+\.\n", capsys.readouterr().err)
