"""The record of what the tests read of a golden file."""

from tests.parity.golden import Settings


def test_a_setting_counts_as_read_once_its_value_is_taken():
    unread: set[str] = set()
    meta = {"lr": 1e-3, "hp": {"steps": 4, "ema": {"rate": 0.9}}, "cases": [{"T": 20}, {"T": 40}]}
    settings = Settings(meta, unread)
    assert unread == {"lr", "hp.steps", "hp.ema.rate", "cases.0.T", "cases.1.T"}

    assert "lr" in settings and list(settings) == ["lr", "hp", "cases"]
    assert settings["hp"].get("absent", 7) == 7
    assert len(unread) == 5  # none of these looks at a value

    assert settings["lr"] == 1e-3 and settings["hp"]["ema"]["rate"] == 0.9
    assert settings["cases"][1]["T"] == 40
    assert unread == {"hp.steps", "cases.0.T"}
    assert {**settings["hp"]}["steps"] == 4
    assert unread == {"cases.0.T"}
