"""Damaged models, checkpoints and weights files of others: one sentence, or the same bits"""
import json, os, random, shutil
from pathlib import Path

import numpy as np, torch
from safetensors.torch import save_file

from imgclf_nb import backbones
from imgclf_nb.training import checkpoints
from attacks.cases import Shown, Silent, ask
from attacks.mutants import mutate
from attacks.small_files import JSON

PLANTED = 60
ARCH = 'mobilenetv3_small_050'


def make_model(seed=0):
    "A small random model"
    torch.manual_seed(seed)
    return backbones.get_backbone(ARCH, 3, weights='none')


def make_facts():
    "The facts of a checkpoint, as `_get_facts` gives them"
    _, _, position, has_gauss, gauss = np.random.get_state()
    return dict(epoch=1, step=2, pct_train=.5, train_iter=9, history=[[0, 1., .9, .5]], happened=[],
        micro=None, scaler={}, seconds=3., counters={}, python=random.getstate(),
        numpy=[position, has_gauss, gauss], key=dict(arch=ARCH), way={}, spent=4.)


def make_checkpoint(path):
    "A checkpoint with weights, an optimiser's state and random states"
    state = add_prefix('model.', make_model().state_dict())
    state = {name: value.contiguous() for name,value in state.items()}
    first = {f'opt.{i}.exp_avg': torch.randn(5, generator=torch.manual_seed(i)) for i in range(9)}
    generators = {'rng.torch': torch.get_rng_state(),
        'rng.numpy': torch.from_numpy(np.random.get_state()[1].astype(np.int64))}
    checkpoints.write_checkpoint(path, {**state, **first, **generators}, make_facts())


def make_card():
    "model.json of a run"
    classes = ['a', 'b', 'c']
    pre = dict(channels=3, size=32, classes=classes)
    return dict(arch=ARCH, classes=classes, preprocessing=pre, temperature=1., threshold=None)


def prepare(folder):
    "A saved model, a checkpoint, and weights files of others"
    run = folder/'run'
    run.mkdir()
    backbones.save_model(run, make_model(), make_card())
    make_checkpoint(run/'checkpoint.safetensors')
    state = {name: value.clone() for name,value in make_model(1).state_dict().items()}
    save_file(state, folder/'weights.safetensors')
    torch.save(state, folder/'weights.pth')
    torch.save(state, folder/'old.pth', _use_new_zipfile_serialization=False)
    return dict(run=run, folder=folder, state=state, card=(run/'model.json').read_bytes(),
        model=read_model(run), checkpoint=read_state(run))


def hash_state(state):
    "The bytes of all tensors, by name"
    return {name: value.detach().contiguous().numpy().tobytes() for name,value in state.items()}


def read_model(run):
    "The loaded model as bytes, and model.json"
    model, card = backbones.load_model(run)
    return hash_state(model.state_dict()), card


def read_state(run):
    "The checkpoint as bytes, and its facts"
    tensors, facts = checkpoints.read_checkpoint(run/'checkpoint.safetensors')
    if facts is None: return None
    return hash_state(tensors), json.dumps(facts, sort_keys=True)


def check_same(got, wanted, sentence):
    "`Silent` for another result"
    if sentence is None and got != wanted: raise Silent('other weights or facts were accepted')


def attack_file(case, name, read, wanted):
    "A damaged file of a run; files beside it, such as checksums, are damaged too"
    run = case.folder/'run'
    shutil.copytree(case.shared['run'], run)
    path = case.rng.choice([o for o in sorted(run.iterdir()) if name in o.name])
    how, data = mutate(case.rng, path.read_bytes())
    case.title(f'{path.name} {how}')
    path.write_bytes(data)
    if 'lock' in path.name: return
    got, sentence = ask(read, run)
    check_same(got, wanted, sentence)
    if not path.exists(): raise Silent(f'{path.name} was deleted')


def attack_model(case): attack_file(case, 'model.safetensors', read_model, case.shared['model'])


def attack_checkpoint(case):
    attack_file(case, 'checkpoint.safetensors', read_state, case.shared['checkpoint'])


def attack_card(case):
    "A damaged model.json, or one of another type"
    run = case.folder/'run'
    shutil.copytree(case.shared['run'], run)
    how = case.rng.choice(JSON)
    data = how(case.rng, case.shared['card'])
    if case.rng.random() < .4: name, data = mutate(case.rng, case.shared['card'])
    else: name = how.__name__
    case.title(f'model.json {name}')
    (run/'model.json').write_bytes(data)
    got, sentence = ask(backbones.load_model, run)
    other = got and hash_state(got[0].state_dict()) != case.shared['model'][0]
    if other: raise Silent('another model')


def swap_models(case):
    "The weights of another training of the same model in the place of these"
    run = case.folder/'run'
    shutil.copytree(case.shared['run'], run)
    case.title('model.safetensors of another run')
    other = case.folder/'other'
    other.mkdir()
    backbones.save_model(other, make_model(7), json.loads(case.shared['card']))
    shutil.copy(other/'model.safetensors', run/'model.safetensors')
    got, sentence = ask(read_model, run)
    wanted = hash_state(make_model(7).state_dict())
    if sentence is None and got[0] != wanted: raise Silent('a mixture')


# ---- weights files of others, given as weights=PATH

def load_weights(path): return backbones.get_backbone(ARCH, weights=str(path))


def damage_weights(case):
    "A damaged weights file; without a checksum, other numbers are possible, but they are finite"
    name = case.rng.choice(['weights.safetensors', 'weights.pth', 'old.pth'])
    how, data = mutate(case.rng, (case.shared['folder']/name).read_bytes())
    case.title(f'weights={name}, {how}')
    (case.folder/name).write_bytes(data)
    model, sentence = ask(load_weights, case.folder/name)
    if model and not all(value.isfinite().all() for value in model.state_dict().values()):
        raise Silent('weights that are not finite were accepted')


def save(state, path):
    "Weights as a file of torch"
    torch.save(state, path)


def add_prefix(prefix, state): return {f'{prefix}{name}': value for name,value in state.items()}


def nest(*keys):
    "A function that puts a state dict below these keys"
    def wrap(state):
        for key in keys: state = {key: state, 'epoch': 3}
        return state
    return wrap


WRAPPED = {'module.': lambda s: add_prefix('module.', s), 'model.': lambda s: add_prefix('model.', s),
    'module.model.': lambda s: add_prefix('module.model.', s), 'backbone.': None,
    '{model: …}': nest('model'), '{state_dict: …}': nest('state_dict'),
    '{model_state_dict: …}': nest('model_state_dict'), '{net: …}': nest('net'),
    '{state_dict: module.…}': lambda s: nest('state_dict')(add_prefix('module.', s)),
    '{model: module.…}': lambda s: nest('model')(add_prefix('module.', s)),
    '_orig_mod.': lambda s: add_prefix('_orig_mod.', s)}
MUST_LOAD = ('module.', 'model.', '{model: …}', '{state_dict: …}', '{state_dict: module.…}',
    '{model: module.…}')


def wrap_weights(case):
    "Good weights under other names: understood, or refused in a sentence"
    name = case.rng.choice([name for name,wrap in WRAPPED.items() if wrap])
    case.title(f'weights under {name}')
    save(WRAPPED[name](dict(case.shared['state'])), case.folder/'x.pth')
    model, sentence = ask(load_weights, case.folder/'x.pth')
    if model is None:
        if name in MUST_LOAD: raise Silent(f'not understood: {sentence}')
        return
    own = model.state_dict()
    for key,value in case.shared['state'].items():
        if key.startswith('classifier'): continue
        if not torch.equal(own[key], value): raise Silent(f'other {key}')


class Hostile:
    "Runs a command where it is unpickled"
    def __init__(self, path): self.path = path

    def __reduce__(self): return os.system, (f'touch {self.path}',)


def make_odd(case):
    "Files that are no weights: `{name: function that writes it}`"
    state = case.shared['state']
    nan = dict(state)
    for name,value in state.items():
        if value.is_floating_point(): nan[name] = value*float('nan')
    first = next(iter(state))
    one = {**state, first: state[first]*float('inf')}
    page = b'<!DOCTYPE html><html><head><title>404</title></head></html>'
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n'
    return {'hostile.pth': lambda p: save({'x': Hostile(case.folder/'canary')}, p),
        'empty.pth': lambda p: p.touch(), 'empty.safetensors': lambda p: p.touch(),
        'page.pth': lambda p: p.write_bytes(page),
        'page.safetensors': lambda p: p.write_bytes(page),
        'pointer.pth': lambda p: p.write_bytes(pointer),
        'pointer.safetensors': lambda p: p.write_bytes(pointer),
        'nan.pth': lambda p: save(nan, p), 'inf.pth': lambda p: save(one, p),
        'nan.safetensors': lambda p: save_file(nan, p), 'model.pth': lambda p: save(make_model(), p),
        'list.pth': lambda p: save([1, 2], p), 'number.pth': lambda p: save(3, p),
        'nothing.pth': lambda p: save({}, p), 'text.pth': lambda p: save({'model': 'x'}, p),
        'numbers.pth': lambda p: save({'a': 1}, p), 'keys.pth': lambda p: save({1: torch.ones(2)}, p),
        'tensor.pth': lambda p: save(torch.ones(3), p), 'folder.pth': lambda p: p.mkdir(),
        'loop.pth': lambda p: p.symlink_to(p.name), 'none.safetensors': lambda p: save_file({}, p),
        'complex.pth': lambda p: save({k: v.to(torch.complex64) for k,v in state.items()}, p),
        'whole.pth': lambda p: save({k: v.long() for k,v in state.items()}, p),
        'half.pth': lambda p: save({k: v[:1] for k,v in state.items() if v.ndim}, p),
        'zip.pth': lambda p: p.write_bytes(b'PK\5\6' + bytes(18))}


def load_odd(case):
    "A file that is no weights"
    odd = make_odd(case)
    name = list(odd)[case.number//7 % len(odd)]
    case.title(f'weights={name}')
    odd[name](case.folder/name)
    model, sentence = ask(load_weights, case.folder/name)
    if (case.folder/'canary').exists(): raise Shown('a pickle was run')
    if sentence is None and name != 'whole.pth': raise Silent('accepted')
    check_advice(name, sentence or '')


OWN_WORDS = {'empty': 'empty', 'page': 'page', 'nan': 'NaN', 'inf': 'finite'}

def check_advice(name, sentence):
    "`Shown` for advice to switch a safeguard off; `Silent` if the sentence does not say what it is"
    for words in ('weights_only', 'arbitrary code', 'add_safe_globals', 'trusted'):
        if words in sentence: raise Shown(f"{words!r} in: {sentence}")
    word = OWN_WORDS.get(name.split('.')[0])
    said = not word or word.lower() in sentence.lower()
    if not said: raise Silent(f'{word!r} is not said: {sentence}')


def attack(case):
    "One file of weights"
    kinds = (attack_model, attack_checkpoint, damage_weights, load_odd, attack_checkpoint, wrap_weights,
        attack_card if case.number % 2 else swap_models)
    case.pick(kinds)(case)


# ---- wrong readers, which must be reported

def trust(shared):
    "A reader that takes what it gets"
    from safetensors.torch import load
    def bad(path):
        data = Path(path).read_bytes()
        try: return load(data), make_facts()
        except Exception: return {}, make_facts()
    checkpoints.read_checkpoint = bad


def raise_inner(shared):
    "A reader that lets the library's error through"
    from safetensors.torch import load_file
    checkpoints.read_checkpoint = lambda path: (load_file(path), {})


def unpickle(shared):
    "A reader that runs pickles"
    real = torch.load
    def bad(path, **given): return real(path, **given | dict(weights_only=False))
    torch.load = bad


PLANTS = {'silent': trust, 'traceback': raise_inner, 'traceback-pickle': unpickle}
