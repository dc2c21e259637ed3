"""What one server allows, and the headers that its answers carry. Decides about no request: guard.py does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sgmsnet.web.doors import Door

_STRICT_CSP = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What one server allows. Without `hosts` any name is answered to; without `per_minute` any rate is fine, and any
    number of requests at once."""

    folder: Path
    """Where uploads lie, links resolved."""
    most_bytes: int | None = None
    """Of all that lies there; None for as many as the disk has room for."""
    hosts: frozenset[str] | None = None
    per_minute: int | None = None
    frames: tuple[str, ...] = ("'self'",)
    """Who may show the page in a frame: sources of frame-ancestors."""

    def page_csp(self) -> str:
        """Gradio's page needs scripts in the page and made from strings; but nothing may come from or go elsewhere."""
        return "; ".join(
            (
                "default-src 'self'",
                "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
                "style-src 'self' 'unsafe-inline'",
                "img-src 'self' data: blob:",
                "font-src 'self' data:",
                "connect-src 'self' data: blob:",
                "worker-src 'self' blob:",
                "object-src 'none'",
                "base-uri 'self'",
                "form-action 'self'",
                f"frame-ancestors {' '.join(self.frames)}",
            )
        )

    def headers(self, path: str, door: Door | None) -> dict[str, str]:
        """What the answer to a request carries beside its own."""
        csp = self.page_csp()
        if path.startswith("/gradio_api/file="):  # a stranger's file, should a browser ever show it as a page
            csp = f"{_STRICT_CSP}; sandbox"
        elif door is None or door.kind in ("rest", "probe"):
            csp = _STRICT_CSP
        added = {**_HEADERS, "Content-Security-Policy": csp}
        return added if door is not None and door.kept else {**added, "Cache-Control": "no-store"}


def frames() -> tuple[str, ...]:
    """Who may show the page in a frame: itself, and on a Hugging Face Space the site around it."""
    return ("'self'", "https://huggingface.co", "https://*.hf.space") if "SPACE_ID" in os.environ else ("'self'",)
