"""Log mel spectrograms of short recordings, in NumPy."""

from itertools import pairwise

import numpy as np

__all__ = ["spectrograms"]

_WINDOW, _HOP, _BANDS, _FRAMES = 256, 128, 40, 64


def spectrograms(audio: np.ndarray, offset: np.ndarray, *, rate: int) -> np.ndarray:
    """Return `[recordings, 40 bands, 64 frames]` float32, in nats of energy.

    A frame is 32 ms every 16 ms at 8 kHz; recordings are cut or filled with silence at the end.

    Args:
        audio: int16 samples, recordings end to end.
        offset: where each begins, `[recordings + 1]`.
        rate: samples a second.

    References:
        Davis & Mermelstein 1980, IEEE ASSP 28(4), section II (mel-spaced bands).
    """
    bands = _mel(rate)
    window = np.hanning(_WINDOW).astype(np.float32)
    samples = _WINDOW + _HOP * (_FRAMES - 1)
    index = np.arange(_FRAMES)[:, None] * _HOP + np.arange(_WINDOW)
    out = np.empty((len(offset) - 1, _BANDS, _FRAMES), np.float32)
    for row, (low, high) in enumerate(pairwise(offset)):
        wave = np.zeros(samples, np.float32)
        heard = audio[low:high][:samples]
        wave[: len(heard)] = heard / np.float32(32768)
        power = np.abs(np.fft.rfft(wave[index] * window, axis=1)) ** 2
        out[row] = np.log(power @ bands + 1e-6).T
    return out


def _mel(rate: int) -> np.ndarray:
    """Return triangular bands, `[frequencies, 40]`."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _BANDS + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(_WINDOW, 1 / rate)[:, None]
    rise = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rise, fall))
