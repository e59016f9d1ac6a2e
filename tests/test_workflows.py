"The GitHub workflows parse, follow the published schema, and name only make targets that exist"
import re
from pathlib import Path

import pytest, yaml

from conftest import ROOT, command

WORKFLOWS = sorted((ROOT/'.github'/'workflows').glob('*.yml'))
TARGETS = set(re.findall(r'^([a-z-]+):', (ROOT/'Makefile').read_text(), flags=re.M))
load = lambda p: yaml.safe_load(p.read_text())
steps = lambda p: [s for job in load(p)['jobs'].values() for s in job['steps']]


def test_there_are_four(): assert [p.name for p in WORKFLOWS] == ['docs.yml', 'gpu.yml', 'image.yml', 'test.yml']


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


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.name)
def test_every_action_is_pinned_by_commit(path):
    "A tag can be moved to other code; the release stands beside the commit, for readers"
    uses = re.findall(r'uses: *(.+)', path.read_text())
    assert uses
    for line in uses: assert re.fullmatch(r'[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+', line), line


def test_an_action_has_one_pin():
    pins = {}
    for line in '\n'.join(p.read_text() for p in WORKFLOWS).splitlines():
        if found := re.search(r'uses: *([\w/-]+)@(\S+)', line): pins.setdefault(found[1], set()).add(found[2])
    assert pins and all(len(o) == 1 for o in pins.values()), pins


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.name)
def test_no_value_is_written_into_a_shell_line(path):
    "An expression in `run` is code: values come by the environment"
    for step in steps(path):
        assert '${{' not in step.get('run', ''), step
        assert step.get('with', {}).get('persist-credentials') is False or 'checkout' not in step.get('uses', '')


def test_only_the_job_of_a_tag_may_push_an_image():
    "Pull requests build the image too, and their code must find no right to write"
    w = load(ROOT/'.github'/'workflows'/'image.yml')
    assert w['permissions'] == {'contents': 'read'}
    check, publish = w['jobs']['check'], w['jobs']['publish']
    assert 'permissions' not in check and check['if'] == "github.ref_type != 'tag'"
    assert publish['permissions'] == {'contents': 'read', 'packages': 'write'} and publish['if'] == "github.ref_type == 'tag'"
    commands = [[step['run'] for step in job['steps'] if 'run' in step] for job in (check, publish)]
    assert commands == [['make image', 'make check-image'], ['make image', 'make check-image', 'make push-image']]


def test_the_gpu_machine_checks_what_it_was_given_first():
    "Before anything is installed or run, and before a name becomes a path of an artifact"
    given = steps(ROOT/'.github'/'workflows'/'gpu.yml')
    commands = [step.get('run') for step in given if 'run' in step]
    assert commands[0] == 'make check-names' and len(commands) == 3
    artifact = [step for step in given if 'upload-artifact' in step.get('uses', '')]
    check = next(step for step in given if step.get('run') == 'make check-names')
    assert [step['if'] for step in artifact] == [f"always() && steps.{check['id']}.outcome == 'success'"]
    job = load(ROOT/'.github'/'workflows'/'gpu.yml')['jobs']['train']
    assert set(job['env']) == {'DATASET', 'ARCH', 'ARGS', 'RUN'}  # what check-names looks at
