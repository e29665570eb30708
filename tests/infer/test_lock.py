import subprocess
import sys
from pathlib import Path

import pytest

from counterstain.errors import ExistingOutputError
from counterstain.infer.lock import locked

SCRIPT = """
import sys
from pathlib import Path
from counterstain.infer.lock import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")


def test_another_process_is_kept_out_and_let_in_afterwards(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a" / "b")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(ExistingOutputError, match="another process"), locked(tmp_path / "a" / "b"):
            pass
        with locked(tmp_path / "a"):
            pass
        other.kill()
    with locked(tmp_path / "a" / "b"):
        assert not list((tmp_path / "a" / "b").iterdir())
