import subprocess
import sys


def test_the_reference_of_the_config_is_up_to_date(root):
    words = [sys.executable, str(root / "scripts" / "write_config_reference.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
