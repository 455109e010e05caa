"""Settings come from files too, and the page that lists them is made from the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from studio.settings import Settings

ROOT = Path(__file__).parent.parent.parent


def kubernetes_volume(folder: Path) -> Path:
    """A mounted Secret as the kubelet makes it: links to a folder that is swapped as a whole."""
    (folder / "..2026").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026")
    for name, value in {"STUDIO_ENCRYPTION_KEYS": "a,b\n", "STUDIO_EGRESS_ALLOW": "10.0.0.0/8, 10.1.0.0/16"}.items():
        (folder / "..2026" / name).write_text(value)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def test_a_file_holds_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_SECRETS_DIR", str(kubernetes_volume(tmp_path / "secrets")))
    settings = Settings()
    assert settings.encryption_keys is not None
    assert settings.encryption_keys.get_secret_value() == "a,b"
    assert settings.egress_allow == ("10.0.0.0/8", "10.1.0.0/16")


def test_the_environment_wins_over_a_file_and_an_argument_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_SECRETS_DIR", str(tmp_path))
    (tmp_path / "STUDIO_PORT").write_text("1")
    assert Settings().port == 1
    monkeypatch.setenv("STUDIO_PORT", "2")
    assert Settings().port == 2
    assert Settings(port=3).port == 3


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_SECRETS_DIR", str(tmp_path / "gone"))
    with pytest.raises(ValidationError, match="must be a folder"):
        Settings()


def test_the_page_of_settings_is_up_to_date() -> None:
    script = ROOT / "scripts" / "settings.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, cwd=ROOT)
    page = (ROOT / "docs" / "settings.md").read_text()
    assert all(f"`STUDIO_{name.upper()}`" in page for name in Settings.model_fields)
