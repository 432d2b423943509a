"""Files that systems and programs leave behind, which are never data: one list for all readers."""

import re

_FOLDERS = frozenset(
    [
        *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found"),
        *("network trash folder", "temporary items", "__pycache__"),
    ]
)
_FILES = frozenset(["thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini"])
_FILE = re.compile(
    r"~\$.*|.*~|#.*#"  # open documents and the backups of editors
    r"|.*\.(?:bak|old|orig|swp|swo|tmp|temp|part|partial|crdownload|lock)"
    r"|syno(?:photo|file)_thumb_.*",
    re.IGNORECASE | re.DOTALL,
)


def is_leftover(name: str, *, is_folder: bool = False) -> bool:
    """Return whether part of a path is hidden or a leftover.

    Hidden names begin with a dot: `.DS_Store`, `.Trash-1000`, and macOS' `._photo.jpg`.
    """
    if name.startswith("."):
        return True
    return name.lower() in _FOLDERS if is_folder else name.lower() in _FILES or bool(_FILE.fullmatch(name))


def lies_in_leftovers(path: str) -> bool:
    """Return whether a file, or a folder above it, is a leftover."""
    *folders, name = path.split("/")
    return is_leftover(name) or any(is_leftover(one, is_folder=True) for one in folders)
