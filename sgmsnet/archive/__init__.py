"""Work through an archive: many files, streamed, in shards, going on where a job stopped. Runs no network itself."""

from __future__ import annotations


class ArchiveError(Exception):
    """An archive job cannot start or go on, for the reason given in one sentence."""
