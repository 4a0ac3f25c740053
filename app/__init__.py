"""The service: raw features in over HTTP, click probabilities out."""

import os

__version__ = "0.1.0"

# onnxruntime would open a database for its telemetry below the home directory, and start a thread.
# It reads this once, when it is first imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
