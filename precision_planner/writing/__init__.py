"""The one way by which anything is written: what was read is never overwritten, and a file appears whole or not at all.

`ledger` knows what was read, `outputs` refuses and replaces single files, `folders` keeps a folder's manifest, and
`scratch` holds what is temporary. What is promised, and against what (a killed process, not a power cut), stands in
docs/reliability.md.
"""

from precision_planner.writing.folders import (
    FolderWriter,
    check_folder,
    finish_interrupted,
    folder_lock,
    made_files,
    record,
    write_into,
    write_set,
)
from precision_planner.writing.ledger import Reads, changed_inputs, identity, reads, recording, refuse_changed, watch
from precision_planner.writing.outputs import (
    REPORT_KINDS,
    atomic_files,
    check_output,
    check_report,
    place_of,
    remove_parts,
    unnamed_part,
    write_bytes,
    write_text,
)
from precision_planner.writing.scratch import Scratch, scratch_folder

__all__ = [
    "REPORT_KINDS",
    "FolderWriter",
    "Reads",
    "Scratch",
    "atomic_files",
    "changed_inputs",
    "check_folder",
    "check_output",
    "check_report",
    "finish_interrupted",
    "folder_lock",
    "identity",
    "made_files",
    "place_of",
    "reads",
    "record",
    "recording",
    "refuse_changed",
    "remove_parts",
    "scratch_folder",
    "unnamed_part",
    "watch",
    "write_bytes",
    "write_into",
    "write_set",
    "write_text",
]
