"The Makefile: help is complete and readable, setting up is quiet unless it fails"
import re, shutil, subprocess

import pytest

from conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='make is not installed')
TARGETS = re.findall(r'^([a-z-]+):', (ROOT/'Makefile').read_text(), flags=re.M)


def make(*args):
    "Exit code and output of make"
    done = subprocess.run(['make', '--no-print-directory', *args], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_help_is_grouped_and_complete():
    "Every target is listed once, in lines that fit a terminal"
    rc, said = make('help')
    assert rc == 0
    groups = re.findall(r'^(\w.*)$', said, flags=re.M)
    assert groups == ['Start', 'Your images', 'Experiments', 'Look', 'Develop']
    assert sorted(re.findall(r'^  make ([a-z-]+)', said, flags=re.M)) == sorted(TARGETS)
    assert max(map(len, said.splitlines())) <= 100, max(said.splitlines(), key=len)


FAKE = '''#!/bin/sh
[ "$1" = -c ] && exit 0
echo noise of pip
case "$*" in
  *venv*) mkdir -p {venv}/bin; cp "$0" {venv}/bin/python;;
  *dev*) {end};;
esac
'''


@pytest.mark.parametrize('end, rc, noisy', [('exit 0', 0, False), ('echo no index; exit 1', 2, True)])
def test_setup_is_quiet_unless_it_fails(end, rc, noisy, tmp_path):
    python, venv = tmp_path/'python', tmp_path/'venv'
    python.write_text(FAKE.format(venv=venv, end=end))
    python.chmod(0o755)
    got, said = make('setup', f'PYTHON={python}', f'VENV={venv}')
    assert (got, 'noise of pip' in said, 'no index' in said) == (rc, noisy, noisy)
    assert 'Setting up' in said and 'installing the package' in said
    assert ('The same command tries again' in said) == noisy
