"""Pictures brought to the size that a network takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def resize(picture: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
    """Resize a picture to a square, bicubically and without aliasing.

    The kernel is Keys' with a = -1/2, widened by the factor of a reduction, and weights are
    normalised at the borders, as Pillow and PyTorch do it.

    Parameters
    ----------
    picture : ndarray of uint8, shape (height, width, 3)
    side : int
        Pixels of the result.

    Returns
    -------
    ndarray of float32, shape (3, side, side)
        0 to 1.
    """
    height, width, _ = picture.shape
    rows, columns = _weights(height, side), _weights(width, side)
    values = picture.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    resized: npt.NDArray[np.float32] = rows @ values @ columns.T
    return resized.clip(0, 1)


def _weights(size: int, wanted: int) -> npt.NDArray[np.float32]:
    """Weights (wanted, size) with which an axis is resampled."""
    factor = size / wanted
    stretch = max(factor, 1.0)
    centres = (np.arange(wanted) + 0.5) * factor
    distance = np.abs(np.arange(size) + 0.5 - centres[:, np.newaxis]) / stretch
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    normalised: npt.NDArray[np.float32] = weights / weights.sum(axis=1, keepdims=True)
    return normalised.astype(np.float32)
