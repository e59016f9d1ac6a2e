"The image for serving: Dockerfile, requirements and imports agree; compose and Kubernetes files follow their schemas"
import ast, importlib.metadata, importlib.util, os, re, shlex, subprocess, sys
from fnmatch import fnmatch

import pytest, yaml
from packaging.requirements import Requirement

from conftest import MODULES, ROOT, command
from dependencies import normalise

DEPLOY = ROOT/'deploy'
HEAVY = 'torch torchvision timm fastai sklearn matplotlib'.split()


def read_dockerfile():
    "By stage, the instructions as `(name, words)`, and the stage's base; continued lines are one"
    text = re.sub(r'^#.*\n', '', (ROOT/'Dockerfile').read_text(), flags=re.M).replace('\\\n', ' ')
    stages, bases = {'': []}, {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, words = line.partition(' ')
        if name == 'FROM':
            bases[words.split()[2]], stages[words.split()[2]] = words.split()[0], []
        stages[list(stages)[-1]].append((name, words.strip()))
    return stages, bases


STAGES, BASES = read_dockerfile()
get = lambda stage, name: [words for found, words in STAGES[stage] if found == name]


def get_serving():
    "The requirements of a server, as the image installs them"
    done = subprocess.run([sys.executable, DEPLOY/'requirements.py', 'serve'], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Requirement(line) for line in done.stdout.split()]


def get_closure(requirements):
    "Normalised names of these packages and of all that they need here"
    found, waiting = set(), [o.name for o in requirements]
    while waiting:
        name = normalise(waiting.pop())
        if name in found: continue
        found.add(name)
        needed = map(Requirement, importlib.metadata.requires(name) or [])
        waiting += [o.name for o in needed if not o.marker or o.marker.evaluate(dict(extra=''))]
    return found


# ---- the Dockerfile

def test_stages():
    "Base images have a version; the stage that a build without --target makes is the one for serving"
    assert list(BASES) == ['base', 'build', 'train', 'serve']
    assert BASES == dict(base='python:${PYTHON}', build='base', train='base', serve='base')
    assert re.fullmatch(r'PYTHON=3\.\d+\.\d+-slim-\w+', get('', 'ARG')[0])


@pytest.mark.parametrize('stage', ['train', 'serve'])
def test_nobody_is_root(stage):
    assert get(stage, 'USER') == ['10001:10001']
    assert [name for name,_ in STAGES[stage]].index('USER') > max(i for i,(name,_) in enumerate(STAGES[stage]) if name in ('RUN', 'COPY'))


def test_serving_has_no_compiler_and_no_training_stack():
    "Nothing comes from apt, only wheels are installed, and the image is the finished environment without pip"
    assert not [words for stage in STAGES for words in get(stage, 'RUN') if 'apt' in words]
    assert '--only-binary :all:' in get('build', 'RUN')[0] and '--no-deps' in get('build', 'RUN')[1]
    assert get('serve', 'COPY') == ['--from=build /venv /venv'] and 'pip uninstall' in get('serve', 'RUN')[0]
    names = get_closure(get_serving())
    assert not names & set(map(normalise, [*HEAVY, 'scikit-learn', 'papermill', 'jupyterlab'])), names


def test_the_health_check_works_without_curl():
    words = get('serve', 'HEALTHCHECK')[0].partition('CMD ')[2]
    name, option, code = ast.literal_eval(words)
    assert (name, option) == ('python', '-c') and ':8000/health' in code
    failed = subprocess.run([sys.executable, '-c', code.replace(':8000', ':1')], capture_output=True)
    assert failed.returncode == 1
    from stand_in import StandIn, serve
    with serve(StandIn('a key').app) as address:
        port = address.rpartition(':')[2]
        assert subprocess.run([sys.executable, '-c', code.replace(':8000', f':{port}')]).returncode == 0


def test_a_device_that_serving_does_not_have_is_refused():
    code = get('serve', 'RUN')[0].split('&&')[0]
    for device, rc in (('cpu', 0), ('cuda', 1), ('', 1)):
        done = subprocess.run(['sh', '-c', code], env=dict(os.environ, DEVICE=device), capture_output=True, text=True)
        assert done.returncode == rc and ('--target train' in done.stderr) == bool(rc)


def test_what_is_copied_is_there_and_not_ignored():
    "The last line of .dockerignore that fits a path decides"
    rules = [line for line in (ROOT/'.dockerignore').read_text().split() if not line.startswith('#')]
    def is_ignored(path):
        fitting = [rule for rule in rules if fnmatch(path, rule.lstrip('!').removeprefix('**/')) or path.startswith(f"{rule.lstrip('!')}/")]
        return not fitting[-1].startswith('!') if fitting else False
    sources = {source for stage in STAGES for words in get(stage, 'COPY') if '--from' not in words for source in words.split()[:-1]}
    assert sources == {'README.md', 'deploy/requirements.py', 'imgclf_nb', 'nbs', 'pyproject.toml', 'requirements.lock', 'settings.ini', 'setup.py'}
    for path in sources: assert (ROOT/path).exists() and not is_ignored(path), path
    for path in ('runs', 'data', '.git', 'secrets', 'tests', 'deploy/smoke.py', '.venv', 'benchmarks'): assert is_ignored(path), path


def test_the_entry_is_a_command_of_the_package():
    entry = ast.literal_eval(get('serve', 'ENTRYPOINT')[0])
    assert entry[0] in re.findall(r'(\w+)=imgclf_nb', (ROOT/'settings.ini').read_text())
    assert entry[1:] == ['--host', '0.0.0.0', '--port', '8000'] and get('serve', 'EXPOSE') == ['8000']


# ---- what is installed

def test_the_versions_are_those_that_were_tested():
    from dependencies import LOCK, find_unsatisfied, read_pins
    pins = read_pins(LOCK.read_text())
    assert find_unsatisfied([str(o) for o in get_serving()], pins) == []
    done = subprocess.run([sys.executable, DEPLOY/'requirements.py', 'versions'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert read_pins(done.stdout) == pins and 'sha256' not in done.stdout


def test_files_that_are_no_modules_are_installed_too():
    "A wheel holds what setup.py names"
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT/'imgclf_nb').rglob('*') if path.is_file() and path.suffix not in ('.py', '.pyc')}
    given = ast.literal_eval(re.search(r'package_data=(\{.*?\})', (ROOT/'setup.py').read_text())[1])
    named = {path.relative_to(ROOT).as_posix() for package,patterns in given.items() for o in patterns for path in (ROOT/package.replace('.', '/')).glob(o)}
    assert data == named and len(named) == 3


# A process in which nothing is installed but these packages and what they need
ALONE = '''
import importlib.abc, importlib.metadata, sys
allowed = set({allowed!r})

class Alone(importlib.abc.MetaPathFinder):
    tops = importlib.metadata.packages_distributions()
    def find_spec(self, name, path=None, target=None):
        owners = self.tops.get(name.split('.')[0], [])
        if not owners or any(o.lower().replace('_', '-').replace('.', '-') in allowed for o in owners): return None
        raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Alone())
'''


def run_alone(code):
    "Python code in a fresh process that finds what the image holds, and nothing else"
    allowed = sorted(get_closure(get_serving()) | {'imgclf-nb'})
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, '-c', ALONE.format(allowed=allowed) + code], cwd=ROOT, env=env, capture_output=True, text=True)


def test_serving_imports_what_the_image_holds_and_nothing_heavy():
    ours = [o for o in MODULES if o in ('inference', 'serving') or o.startswith('server.')]
    assert {'inference', 'server.page'} <= set(ours)
    code = '\n'.join(f'import imgclf_nb.{name}' for name in ours)
    done = run_alone(f'{code}\nprint(*sorted({{o.split(".")[0] for o in sys.modules}} & set({HEAVY})))')
    assert (done.returncode, done.stdout.strip()) == (0, ''), done.stderr
    assert 'No module named' in run_alone('import torch').stderr  # the check can fail


def test_the_runtimes_are_there():
    done = run_alone('import onnxruntime, openvino')
    assert done.returncode == 0, done.stderr


# ---- compose, Prometheus, Kubernetes

COMPOSE = yaml.safe_load((ROOT/'compose.yaml').read_text())
UID = 10001


def test_compose_follows_its_schema(tmp_path):
    rc, out = command('check-jsonschema', '--builtin-schema', 'vendor.compose-spec', ROOT/'compose.yaml')
    assert rc == 0, out
    bad = tmp_path/'bad.yaml'
    bad.write_text('services: {a: {image: x, portz: []}}')
    assert command('check-jsonschema', '--builtin-schema', 'vendor.compose-spec', bad)[0] != 0


def test_compose_shows_nothing_to_the_network_and_holds_no_secret():
    services = COMPOSE['services']
    assert {port.partition(':')[0] for service in services.values() for port in service.get('ports', [])} == {'127.0.0.1'}
    assert all(re.search(r':v?\d+\.\d+', o['image']) for o in services.values() if 'build' not in o)
    assert {path['file'].split('/')[1] for path in COMPOSE['secrets'].values()} == {'secrets'}
    assert 'secrets/' in (ROOT/'.gitignore').read_text().split()
    assert services['serve']['read_only'] and services['serve']['cap_drop'] == ['ALL']
    assert services['serve']['volumes'][0].endswith(':ro')


def test_prometheus_asks_the_server_with_its_key():
    (job,) = yaml.safe_load((DEPLOY/'prometheus.yml').read_text())['scrape_configs']
    assert job['static_configs'] == [dict(targets=['serve:8000'])] and 'metrics_path' not in job  # /metrics
    (path,) = job['http_headers']['X-API-Key']['files']
    assert path == '/run/secrets/api_key' and 'api_key' in COMPOSE['services']['prometheus']['secrets']


OBJECTS = {o['kind']: o for o in yaml.safe_load_all((DEPLOY/'kubernetes.yaml').read_text())}


def test_kubernetes_follows_its_schemas():
    "kubernetes-validate (Apache, 100 MB of schemas) comes with make test-tools"
    kubernetes_validate = pytest.importorskip('kubernetes_validate', reason='make test-tools')
    for one in OBJECTS.values(): kubernetes_validate.validate(one, '1.33', strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(dict(OBJECTS['Service'], spex={}), '1.33', strict=True)


def test_kubernetes_and_the_image_agree():
    pod = OBJECTS['Deployment']['spec']['template']['spec']
    (container,) = pod['containers']
    assert pod['securityContext']['runAsUser'] == pod['securityContext']['fsGroup'] == UID == int(get('serve', 'USER')[0].split(':')[0])
    assert container['ports'] == [dict(name='http', containerPort=8000)]
    probes = {name: container[f'{name}Probe']['httpGet']['path'] for name in ('startup', 'readiness', 'liveness')}
    assert probes == dict(startup='/ready', readiness='/ready', liveness='/health')
    assert container['securityContext']['readOnlyRootFilesystem'] and pod['securityContext']['runAsNonRoot']
    mounts = {o['name'] for o in container['volumeMounts']}
    assert mounts == {o['name'] for o in pod['volumes']} == {'tmp', 'records', 'secrets'}
    labels = OBJECTS['Deployment']['spec']['template']['metadata']['labels']
    assert OBJECTS['Service']['spec']['selector'] == labels
    assert OBJECTS['HorizontalPodAutoscaler']['spec']['scaleTargetRef']['name'] == OBJECTS['Deployment']['metadata']['name']


# ---- the scripts

@pytest.mark.parametrize('path', sorted(DEPLOY.glob('*.sh')), ids=lambda p: p.name)
def test_scripts_are_bash(path):
    assert subprocess.run(['bash', '-n', path], capture_output=True).returncode == 0 and os.access(path, os.X_OK)
    assert 'set -euo pipefail' in path.read_text()


@pytest.mark.parametrize('name', ['', 'main', 'v1', 'v1.2.3; touch x', 'v1.2.3\nx'])
def test_nothing_is_pushed_without_a_version(name):
    done = subprocess.run([DEPLOY/'push_image.sh'], env=dict(PATH=os.environ['PATH'], GITHUB_REF_NAME=name), capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == 'An image is pushed for a tag such as v1.2.3.\n'


@pytest.fixture
def asked(tmp_path):
    "What deploy/smoke.py says about a stand-in: its exit code and its lines"
    if not importlib.util.find_spec('fastapi'): pytest.skip('fastapi is not installed')
    from PIL import Image
    from stand_in import StandIn, serve
    Image.new('RGB', (8, 8)).save(tmp_path/'image.png')
    (tmp_path/'key').write_text('s3cret\n')
    def ask(**model):
        with serve(StandIn('s3cret', **model).app) as address:
            words = shlex.split(f'deploy/smoke.py {address} {tmp_path}/image.png {tmp_path}/key')
            done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
            return done.returncode, done.stdout + done.stderr
    return ask


def test_the_smoke_test_passes_where_all_is_well(asked):
    code, said = asked()
    assert code == 0 and 'it asks for the key' in said and 'ready after' in said


def test_the_smoke_test_can_fail(asked):
    code, said = asked(classes=['only this'] * 9)
    assert code == 1 and 'Not so:' in said
