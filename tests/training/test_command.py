"""The command that a page quotes asks for the same again."""

from danqing.training.command import command_line


def test_a_command_has_what_was_asked_for_and_leaves_out_what_was_not():
    options = {
        "out": "a b",
        "size": (48, 32),
        "minutes": 2.0,
        "images": None,
        "device": "cpu",
        "track": "auto",
    }
    assert (
        command_line("train", "pets", options | {"n": 5}, {"net": "mlp", "betas": [0.5, 0.9]})
        == "danqing train pets --out 'a b' --size 48x32 --minutes 2 --device cpu -n 5 "
        "--set net=mlp --set 'betas=[0.5, 0.9]'"
    )
    assert command_line("compare", "x", {"minutes": 0.05}) == "danqing compare x --minutes 0.05"
