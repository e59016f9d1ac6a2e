"""Damaged caches: the result is the one without a cache, whatever the cache holds"""
import os, shutil, time

import numpy as np, torch

from imgclf_nb import backbones, pixels
from imgclf_nb.data import get_items
from imgclf_nb.images import duplicates, properties
from imgclf_nb.models import features
from attacks.cases import Lost, Silent, ask
from attacks.mutants import mutate
from attacks.samples import draw
from attacks.small_files import BYTES, CSV, JSON, PLACES

PLANTED = 60
ARCH, SIZE = 'mobilenetv3_small_050', 32


def write_images(folder):
    "Images in two classes, some of them twice or nearly; their times are settled"
    for i in range(24):
        path = folder/('cat' if i % 2 else 'dog')/f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(i, 96))
    for i in (3, 5): shutil.copy(folder/'cat'/f'{i}.jpg', folder/'cat'/f'same{i}.jpg')
    (folder/'dog'/'near.jpg').write_bytes(draw(5, 96, quality=60))
    for path in folder.rglob('*.jpg'): os.utime(path, (1.7e9, 1.7e9))
    time.sleep(2.2)  # a key identifies the content only some time after a change


def get_facts(items): return properties.measure_images(items.path, check=0)


def get_all(folder):
    "Everything that is cached, by name"
    items = get_items(str(folder))
    pre = features.get_preprocessing(ARCH, SIZE, classes=['cat', 'dog'])
    views = pixels.get_pixels(items, pre, 'exact', 'wide')
    model = make_model()
    vectors = features.get_frozen_features(items, ARCH, SIZE, model=model, batch_size=8)
    found = duplicates.find_near_duplicates(properties.measure_images(items.path))
    return dict(items=items.to_csv(), copies=found.to_csv(), features=np.asarray(vectors).tobytes(),
        unreadable=str(items.attrs['unreadable']), hash=items.attrs['data_hash'],
        **{f'view{i}': [bytes(view[j]) for j in range(len(view))] for i,view in enumerate(views)})


def make_model():
    "The same random model each time"
    torch.manual_seed(0)
    return backbones.get_backbone(ARCH, weights='none')


def prepare(folder):
    "Images, what is right about them, and filled caches"
    write_images(folder/'images')
    os.environ['IMGCLF_CACHE'] = str(folder/'none')
    wanted = get_all(folder/'images')
    os.environ['IMGCLF_CACHE'] = str(folder/'cache')
    if get_all(folder/'images') != wanted: raise RuntimeError('the results are not reproducible')
    get_all(folder/'images')
    return dict(images=folder/'images', cache=folder/'cache', wanted=wanted)


def list_files(folder):
    "The files of the caches, in order"
    found = [path for path in folder.rglob('*') if path.is_file() and path.stat().st_size]
    return sorted(path for path in found if not path.name.endswith('lock'))


def swap(rng, path, others):
    "The content of another file of the caches with the same ending"
    alike = [o for o in others if o.suffix == path.suffix and o != path]
    if not alike: return None
    path.write_bytes(rng.choice(alike).read_bytes())
    return 'swap'


def change_number(rng, data):
    "One digit of a text is another one"
    places = [i for i,byte in enumerate(data) if 48 <= byte <= 57]
    if not places: return data[:-1]
    at = rng.choice(places)
    return data[:at] + bytes([48 + (data[at] - 47) % 10]) + data[at+1:]


def drop_line(rng, data):
    "One line of a text is missing"
    lines = data.split(b'\n')
    del lines[rng.randrange(len(lines))]
    return b'\n'.join(lines)


TEXT = (change_number, change_number, drop_line) + BYTES

def damage(rng, path, others):
    "Damage a file of a cache; the name of the way"
    kind = rng.random()
    if kind < .08:
        how = rng.choice([o for o in PLACES if o.__name__ != 'become_pipe'])
        how(path)
        return how.__name__
    if kind < .16:
        done = swap(rng, path, others)
        if done: return done
    data = path.read_bytes()
    if kind < .6 or path.suffix not in ('.csv', '.json', '.jsonl'): name, data = mutate(rng, data)
    else:
        how = rng.choice(TEXT + (CSV if path.suffix == '.csv' else JSON))
        name, data = how.__name__, how(rng, data)
    path.write_bytes(data)
    return name


def attack(case):
    "A damaged file in a copy of the caches; the second call finds what the first one repaired"
    cache = case.folder/'cache'
    shutil.copytree(case.shared['cache'], cache)
    os.environ['IMGCLF_CACHE'] = str(cache)
    files = list_files(cache)
    kinds = sorted({path.relative_to(cache).parts[0] + path.suffix for path in files})
    kind = case.pick(kinds)
    path = case.rng.choice([o for o in files if o.relative_to(cache).parts[0] + o.suffix == kind])
    case.title(f'{kind} {path.name[:20]}')
    case.title(f'{kind} {path.name[:20]}: {damage(case.rng, path, files)}')
    for call in ('first', 'second'):
        got, sentence = ask(get_all, case.shared['images'])
        replaced = 'become_' in case.name  # no damage to a file's content: a folder or a link
        if sentence and replaced and 'and run again' in sentence: return  # it says what to delete
        if sentence: raise Lost(f'{call} call refused: {sentence}')
        wrong = [name for name,value in case.shared['wanted'].items() if got[name] != value]
        if wrong: raise Silent(f"{call} call: other {', '.join(wrong)}")


# ---- wrong readers, which must be reported

def trust(shared):
    "A reader that takes the features as they are"
    def bad(store):
        if not store.exists(): return {}
        data = np.frombuffer(store.read_bytes().ljust(24000, b'\0')[:24000], np.float32)
        hashes = get_items(str(shared['images'])).sha256
        return {sha256: data[:1024] for sha256 in hashes}
    features._read_store = bad


def refuse(shared):
    "A reader that refuses a damaged cache"
    from imgclf_nb.core import UserError
    real = features._read_store
    def bad(store):
        known = real(store)
        if store.exists() and not known: raise UserError(f'{store} is damaged: this is the end.')
        return known
    features._read_store = bad


def raise_inner(shared):
    "A reader that lets the library's error through"
    def bad(store): return dict(np.load(store))
    features._read_store = bad


PLANTS = {'silent': trust, 'lost': refuse, 'traceback': raise_inner}
