"""The first line of a public docstring is short, and says what a function does as an order."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "danqing"
PACKAGES = ["data", "editing", "families", "image_files", "judging", "model", "nets", "page", "presets"]
PACKAGES += ["service", "text", "trust"]
PACKAGES += ["atomic", "control_groups", "errors", "folder_formats", "frames", "images", "machine", "names"]
PACKAGES += ["options", "precision", "quantities", "randomness", "sheet", "threads", "weights"]
"""Packages and modules whose docstrings are checked."""
MOST_WORDS = 12
VERBS = """
Accept Add Advance Answer Append Apply Average Bring Build Call Cancel Carry Change Check Choose Claim
Close Compare Compute Convert Copy Corrupt Count Create Crop Decide Decode Degrade Delete Denoise Derive
Describe Divide Download Draw Drop Edit Embed Encode Encrypt End Enlarge Estimate Fetch Find Finish Fit Follow
Generate Handle Insert Integrate Interpolate Invert Keep Kill Learn Let Limit List Load Log Make Map
Measure Migrate Mix Move Name Open Pack Pad Paint Parse Pass Plan Predict Prepare Print Project Put
Quantize Queue Raise Read Record Refund Release Remove Renew Repeat Replace Report Requeue Reserve Reset
Reshape Resize Resolve Restore Return Revoke Rotate Run Sample Save Scale Seal Select Send Serve Set Settle
Shift Show Sign Silence Sort Split Start Stop Store Stream Sync Take Train Translate Turn Update Upload
Verify Wait Wake Warn Write Yield
"""
"""How the docstring of a function may begin; add a verb where it is needed."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(node: ast.AST, path: str) -> Iterator[tuple[str, Definition]]:
    """The public classes and functions below a node, with their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield f"{path}.{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{path}.{child.name}")


def documented() -> Iterator[tuple[str, Definition, str]]:
    for package in PACKAGES:
        room = SOURCE / package
        for file in sorted(room.rglob("*.py")) if room.is_dir() else [room.with_suffix(".py")]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for name, node in public(tree, str(file.relative_to(SOURCE))):
                if text := ast.get_docstring(node):
                    yield name, node, text


@pytest.mark.parametrize("kind", ["function", "class"])
def test_the_first_line_of_a_docstring_is_one_short_sentence(kind: str) -> None:
    found = [each for each in documented() if isinstance(each[1], ast.ClassDef) == (kind == "class")]
    assert len(found) > 50
    for name, _, text in found:
        first, *rest = text.split("\n")
        words = re.sub(r"\([^)]*\)", "", re.sub(r"`[^`]*`", "code", first)).split()  # without citations
        assert len(words) <= MOST_WORDS, f"{name} begins with {len(words)} words: {first}"
        assert first.endswith("."), f"{name} needs a whole first line: {first}"
        assert not rest or not rest[0], f"{name} needs an empty line after: {first}"


def test_the_docstring_of_a_function_begins_with_a_verb() -> None:
    for name, node, text in documented():
        if not isinstance(node, ast.ClassDef):
            assert text.split()[0] in VERBS.split(), (
                f"{name} does not begin with an imperative of VERBS above; add the verb if it is one: "
                f"{text.split('.')[0]}"
            )
