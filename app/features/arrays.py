"""Array types that the layers share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]
"""Rows of the fused table, or the 32-bit words of encoded rows."""
Floats = NDArray[np.float32]
Packed = bytes | bytearray | memoryview
"""Encoded rows one after the other, 32 bits a word in the machine's byte order."""
