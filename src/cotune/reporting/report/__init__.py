"""The report of a run: read from its trace and result, as one HTML page, as Markdown and as pictures for talks."""
