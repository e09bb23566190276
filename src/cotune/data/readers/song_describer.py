"""The Song Describer dataset: descriptions of music, up to five for a recording.

`song_describer.csv` (Manco et al. 2023, arXiv 2311.10057) has the columns `caption_id`, `track_id`, `caption`,
`is_valid_subset`, `familiarity`, `artist_id`, `album_id`, `path` (`34/1004034.mp3`) and `duration`; the two minutes of
each recording lie in `audio/34/1004034.2min.mp3`. It is meant for evaluation only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from cotune.data.readers.answers import Per, caption_samples
from cotune.data.readers.base import Problems, Reader
from cotune.data.readers.csv_records import missing_columns, read_csv
from cotune.data.readers.record import Record
from cotune.messages import Audio, Sample

NOT_VALIDATED = "captions outside of the validated subset, left out as asked"


def missing(path: Path) -> str:
    """Return what keeps a file from being the data set's."""
    return missing_columns(path, "caption_id", "track_id", "caption", "path")


def read(
    path: Path,
    media: Path | None,
    problems: Problems,
    *,
    per: Per = "caption",
    subset: Literal["all", "valid"] = "all",
) -> Iterator[Sample]:
    """Yield one sample per caption, or one per recording; `valid` leaves out captions that nobody validated.

    `meta` holds all captions of the recording (`references`), `track_id` and `artist_id`. Sounds lie in `media`, or in
    `audio` beside the file.
    """
    folder = media or (path.parent / "audio" if (path.parent / "audio").is_dir() else path.parent)
    tracks: dict[str, list[Record]] = {}
    for record in read_csv(path, problems):
        if subset == "valid" and record.optional_text("is_valid_subset").lower() != "true":
            problems.count(NOT_VALIDATED)
            continue
        tracks.setdefault(record.text("track_id"), []).append(record)
    for track, records in tracks.items():
        first = records[0]
        captions = [(record.text("caption_id"), record.text("caption")) for record in records]
        sound = first.medium(Audio, _file(first.text("path"), folder), folder)
        meta = {"track_id": track, "artist_id": first.optional_text("artist_id")}
        if all(record.sound for record in records):
            yield from caption_samples(track, sound, captions, problems, per=per, origin=first.origin, meta=meta)


def _file(name: str, folder: Path) -> str:
    """Return the file of a recording: the archive holds its first two minutes, under another ending."""
    cut = str(PurePosixPath(name).with_suffix(".2min.mp3")) if name.endswith(".mp3") else name
    return cut if (folder / cut).is_file() or not (folder / name).is_file() else name


READER = Reader("song-describer", "Song Describer: song_describer.csv beside audio/", missing, read)
