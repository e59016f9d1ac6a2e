"The GitHub workflows parse, follow the published schema, and name only make targets that exist"
import re
from pathlib import Path

import pytest, yaml

from conftest import ROOT, command

WORKFLOWS = sorted((ROOT/'.github'/'workflows').glob('*.yml'))
TARGETS = set(re.findall(r'^([a-z-]+):', (ROOT/'Makefile').read_text(), flags=re.M))
load = lambda p: yaml.safe_load(p.read_text())
steps = lambda p: [s for job in load(p)['jobs'].values() for s in job['steps']]


def test_there_are_three(): assert [p.name for p in WORKFLOWS] == ['docs.yml', 'gpu.yml', 'test.yml']


def test_schema():
    rc, out = command('check-jsonschema', '--builtin-schema', 'vendor.github-workflows', *WORKFLOWS)
    assert rc == 0, out


def test_the_schema_check_can_fail(tmp_path):
    (tmp_path/'bad.yml').write_text('on: push\njobs: {a: {runs-on: x, stepz: []}}\n')
    assert command('check-jsonschema', '--builtin-schema', 'vendor.github-workflows', tmp_path/'bad.yml')[0] != 0


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.name)
def test_every_command_is_a_make_target(path):
    runs = [line for s in steps(path) if 'run' in s for line in s['run'].strip().splitlines()]
    assert runs
    for line in runs:
        assert (m := re.match(r'make ([a-z-]+)', line)), line
        assert m[1] in TARGETS, line


def test_the_gpu_machine_never_runs_a_strangers_code():
    w = load(ROOT/'.github'/'workflows'/'gpu.yml')
    assert set(w[True]) == {'schedule', 'workflow_dispatch'}  # YAML reads `on` as true
    assert w['permissions'] == {'contents': 'read'} and 'concurrency' in w
    assert all('timeout-minutes' in job for job in w['jobs'].values())
