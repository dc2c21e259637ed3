"""Starts the page on a Hugging Face Space, which expects it on every address and on port 7860."""

from __future__ import annotations

import os
import sys

import app

if __name__ == "__main__":
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    sys.exit(app.main(["--host", "0.0.0.0", "--port", port, *sys.argv[1:]]))  # noqa: S104
