"""Where the noise sits in the value matrix: its singular value decomposition at every symmetric state, and surgery on it.

Permutations of generic tokens split the current-token block in two. On vectors of generic tokens that sum to zero it is
(same − different) times the identity: the signal, one singular value of multiplicity N − 2. What is left is a 3 × 3
block between the noise token, the trigger and the mean of the generic tokens; the noise is one component of it
(prop-value-spectrum).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from theory.noisy_recall.order_parameters import State


@dataclass(frozen=True)
class ValueSpectrum:
    """Singular values of the value matrix's current-token block in a symmetric state.

    - `signal`: of the copying part, multiplicity `n_generic` − 1. `block`: the three others, largest first, shape (3,).
    - `left`, `right`: their vectors as columns, shape (3, 3), in the orthonormal basis noise, trigger, mean generic token.
    - `noise_index`: which of the three is the noise: the one whose left vector weighs most on the noise token.
    """

    signal: float
    block: np.ndarray
    left: np.ndarray
    right: np.ndarray
    noise_index: int
    n_generic: int

    @property
    def noise(self) -> float:
        """Singular value of the noise component."""
        return float(self.block[self.noise_index])

    @property
    def noise_place(self) -> int:
        """Rank of the noise component among all singular values, 0 for the largest."""
        above = int(np.sum(self.block > self.noise))
        return above + (self.n_generic - 1 if self.signal > self.noise else 0)


def _block(value: np.ndarray, n_generic: int) -> np.ndarray:
    root = np.sqrt(n_generic)
    return np.array(
        [
            [value[0], value[1], value[2] * root],
            [value[3], value[4], value[5] * root],
            [value[6] * root, value[7] * root, value[8] + (n_generic - 1) * value[9]],
        ]
    )


def _classes(block: np.ndarray, copying: float, n_generic: int) -> np.ndarray:
    """The ten entry classes of a block and a copying strength same − different."""
    root = np.sqrt(n_generic)
    different = (block[2, 2] - copying) / n_generic
    return np.array(
        [
            block[0, 0],
            block[0, 1],
            block[0, 2] / root,
            block[1, 0],
            block[1, 1],
            block[1, 2] / root,
            block[2, 0] / root,
            block[2, 1] / root,
            different + copying,
            different,
        ]
    )


def value_spectrum(state: State, n_tokens: int) -> ValueSpectrum:
    """The spectrum of `state.value` for N = `n_tokens` ≥ 3 ordinary tokens. Cost: one 3 × 3 decomposition."""
    n_generic = n_tokens - 1
    left, block, right = np.linalg.svd(_block(state.value, n_generic))
    index = int(np.argmax(abs(left[0])))
    copying = float(state.value[8] - state.value[9])
    return ValueSpectrum(abs(copying), block, left, right.T, index, n_generic)


def without_noise_component(state: State, n_tokens: int) -> State:
    """The state after component removal: the value matrix without its noise component, all else as it was."""
    spectrum = value_spectrum(state, n_tokens)
    index = spectrum.noise_index
    removed = spectrum.noise * np.outer(spectrum.left[:, index], spectrum.right[:, index])
    block = _block(state.value, spectrum.n_generic) - removed
    copying = float(state.value[8] - state.value[9])
    return replace(state, value=_classes(block, copying, spectrum.n_generic))


def truncated(state: State, n_tokens: int, keep_top: int) -> State | None:
    """The state after keeping the `keep_top` largest components of the value matrix.

    None when the cut falls between the equal singular values of the signal, where it has no single answer.
    Raises ValueError unless 0 ≤ keep_top ≤ N + 1.
    """
    spectrum = value_spectrum(state, n_tokens)
    if not 0 <= keep_top <= n_tokens + 1:
        raise ValueError(f"keep_top is {keep_top}; it must be from 0 to {n_tokens + 1}.")
    multiplicity = spectrum.n_generic - 1
    larger = int(np.sum(spectrum.block > spectrum.signal))
    if larger < keep_top < larger + multiplicity:
        return None
    keeps_signal = keep_top >= larger + multiplicity
    count = keep_top - multiplicity if keeps_signal else keep_top
    kept = (spectrum.left[:, :count] * spectrum.block[:count]) @ spectrum.right[:, :count].T
    copying = float(state.value[8] - state.value[9]) if keeps_signal else 0.0
    return replace(state, value=_classes(kept, copying, spectrum.n_generic))


def focused_late_ratio(n_tokens: int) -> float:
    """Limit of noise over signal singular value, late, when attention stays on the token after the trigger (prop-value-spectrum).

    Each target then is a key of an associative memory with n = N − 1 keys and one class more, the trigger, which is never a
    label: √(n + 1 + 4/n²)/(1 + 2/n). The memory without that class has (n − 1)/√(n + 1).
    """
    n = n_tokens - 1
    return float(np.sqrt(n + 1 + 4 / n**2) / (1 + 2 / n))
