"requirements.lock: complete, hashed, satisfies settings.ini, and names no registry and no path"
import json, re, subprocess, sys

import pytest

import dependencies
from conftest import ROOT
from dependencies import LOCK, find_unhashed, find_unsatisfied, is_forbidden, read_pins, read_requirements

TEXT = LOCK.read_text(encoding='utf-8')
PINS = read_pins(TEXT)


def test_the_lock_satisfies_settings_ini(capsys):
    assert dependencies.check_lock() == [] and 'satisfies settings.ini' in capsys.readouterr().out
    assert PINS['torch'] != '2.13.0' and len(PINS) > 150


def test_every_version_has_hashes_and_nothing_else_stands_there():
    "No address of a registry, no path, no option: only versions, hashes and comments"
    assert find_unhashed(TEXT) == []
    line = r'#.*|[a-z0-9._-]+==[\w.!+-]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?'
    assert [o for o in TEXT.splitlines() if not re.fullmatch(line, o)] == []
    assert not re.search(r'https?:|file:|/', TEXT)


def test_a_lock_that_breaks_the_settings_is_found():
    wrong = find_unsatisfied(['torch>=2.14', 'numpy', 'Pi_Heif<2', 'missing'], dict(torch='2.13.0', numpy='2.4', **{'pi-heif': '1.4'}))
    assert wrong == ['torch 2.13.0 is in the lock, torch>=2.14 is needed.', 'missing is not in the lock.']
    assert find_unhashed('a==1 \\\n    --hash=sha256:0\nb==2\n') == ['b==2']


def test_what_the_lock_holds_is_all_that_is_needed():
    "Every requirement of every package in the lock is in it too, in a version that fits"
    from importlib.metadata import PackageNotFoundError, requires
    from packaging.requirements import Requirement
    here = dict(extra='', python_version='3.11', python_full_version='3.11.7', platform_system='Linux', sys_platform='linux',
        platform_machine='x86_64', os_name='posix', implementation_name='cpython', platform_python_implementation='CPython')
    needed = []
    for name in PINS:
        try: found = requires(name) or []
        except PackageNotFoundError: continue  # another system than the lock's
        needed += [o for o in map(Requirement, found) if not o.marker or o.marker.evaluate(here)]
    assert len(needed) > 300
    assert {o.name for o in needed if dependencies.normalise(o.name) not in PINS} == set()


@pytest.mark.parametrize('licence, wrong', [
    ('GNU General Public License v3 (GPLv3)', True), ('AGPL-3.0-or-later', True), ('GPL-2.0-only', True),
    ('GNU Affero General Public License v3', True), ('GNU Lesser General Public License v3 (LGPLv3)', False),
    ('MIT OR GPL-3.0', False), ('BSD License; GNU General Public License (GPL)', False), ('LGPL-2.1', False),
    ('MIT', False), ('Apache Software License', False), ('UNKNOWN', False), ('', False)])
def test_licences_that_bind_the_whole_program_are_refused(licence, wrong): assert is_forbidden(licence) == wrong


FAKE_LICENCES = '''#!{python}
import json
print(json.dumps([dict(Name='torch', Version='1', License='BSD'), dict(Name='Numpy', Version='1', License={licence!r}),
    dict(Name='not-ours', Version='1', License='GPL')]))
'''


def run_tool(tmp_path, script, *words):
    "`(exit code, output)` of a command of tests/dependencies.py with a tool that is this script"
    tool = tmp_path/'tool'
    tool.write_text(script)
    tool.chmod(0o755)
    done = subprocess.run([sys.executable, ROOT/'tests'/'dependencies.py', words[0], tool, *words[1:]], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('licence, code', [('MIT', 0), ('GPL-3.0', 1)])
def test_licences_decide_the_exit_code(licence, code, tmp_path):
    got, said = run_tool(tmp_path, FAKE_LICENCES.format(python=sys.executable, licence=licence), 'licences', sys.executable)
    assert got == code and 'not-ours' not in said and ('numpy' in said.lower())
    assert ('under GPL or AGPL: replace it' in said) == bool(code)


@pytest.mark.parametrize('script, reason', [
    ('echo "ConnectionError: no route (x)" >&2; exit 1', 'ConnectionError: no route'),
    ("""echo '{"dependencies": [{"name": "torch", "skip_reason": "not found"}]}'""", 'has no list'), ('exit 1', 'no reason')])
def test_without_a_network_audit_says_so(script, reason, tmp_path):
    got, said = run_tool(tmp_path, f'#!/bin/sh\n{script}\n', 'vulnerabilities')
    assert got == 0 and 'needs a network' in said and reason in said and 'make audit-deps' in said


def test_vulnerabilities_are_listed(tmp_path):
    vulnerable = dict(name='torch', version='1.0', vulns=[dict(id='CVE-1', fix_versions=['1.1'])])
    found = dict(dependencies=[vulnerable, dict(name='six', version='1', vulns=[]), dict(name='x', skip_reason='not found')])
    got, said = run_tool(tmp_path, f"#!/bin/sh\necho '{json.dumps(found)}'; exit 1\n", 'vulnerabilities')
    assert got == 0 and 'torch 1.0: CVE-1, fixed in 1.1' in said
    assert '1 of 2 packages have known vulnerabilities, 1 are not listed' in said


def test_another_machine_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(dependencies.platform, 'system', lambda: 'Darwin')
    assert 'this is Darwin' in ' '.join(dependencies.check_machine())
