"""The requirements that were tested, by version and hash: `python tests/dependencies.py COMMAND`

check-machine             whether requirements.lock is for this machine
check-lock                whether it satisfies settings.ini
licences TOOL PYTHON      list the licences of what it holds; fails on GPL and AGPL
vulnerabilities TOOL      list what is known to be vulnerable; needs a network
"""
import hashlib
import json
import platform
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT/'requirements.lock'
FORBIDDEN = re.compile(r'GNU (Affero )?General Public|(?<!L)A?GPL', re.I)
PERMITTED = re.compile(r'Lesser|LGPL|Library General|exception', re.I)


def read_pins(text):
    "The version of each package in a lock file, by its normalised name"
    found = re.findall(r'^([A-Za-z0-9._-]+)==([^\s;\\]+)', text, flags=re.M)
    return {normalise(name): version for name,version in found}


def normalise(name):
    "A package's name as the index compares it"
    return re.sub(r'[-_.]+', '-', name).lower()


def read_requirements():
    "The requirements of settings.ini, also those for development"
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    settings = config['DEFAULT']
    return f"{settings['requirements']} {settings['dev_requirements']}".split()


def find_unsatisfied(requirements, pins):
    "Sentences about requirements that the lock lacks or breaks"
    from packaging.requirements import Requirement
    wrong = []
    for requirement in map(Requirement, requirements):
        pin = pins.get(normalise(requirement.name))
        if pin is None: wrong.append(f'{requirement.name} is not in the lock.')
        elif not requirement.specifier.contains(pin, prereleases=True):
            wrong.append(f'{requirement.name} {pin} is in the lock, {requirement} is needed.')
    return wrong


def find_unhashed(text):
    "Packages of a lock file that stand there without a hash"
    blocks = re.split(r'^(?=[A-Za-z0-9])', text, flags=re.M)[1:]
    return [block.split()[0] for block in blocks if '--hash=sha256:' not in block]


def check_lock():
    "Say whether the lock satisfies settings.ini; a list of what is wrong, empty if nothing is"
    text = LOCK.read_text(encoding='utf-8')
    pins = read_pins(text)
    wrong = find_unsatisfied(read_requirements(), pins)
    wrong += [f'{name} has no hash.' for name in find_unhashed(text)]
    if wrong: return [*wrong, 'make lock writes requirements.lock anew.']
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    print(f'requirements.lock holds {len(pins)} packages (sha256 {digest}…) and satisfies settings.ini.')
    return []


def check_machine():
    "What is wrong if the lock is not for this Python and system"
    here = platform.system(), platform.machine(), '.'.join(platform.python_version_tuple()[:2])
    if here == ('Linux', 'x86_64', '3.11'): return []
    return [f"requirements.lock is for Linux on x86-64 and Python 3.11; this is {' '.join(here)}.",
        'Give make setup LOCK=1 PYTHON=python3.11, or make setup for the newest versions.']


def is_forbidden(licence):
    "Whether every licence that a package offers is GPL or AGPL"
    offered = [o for o in re.split(r'\bOR\b|;|\n', licence) if o.strip()]
    return bool(offered) and all(FORBIDDEN.search(o) and not PERMITTED.search(o) for o in offered)


def list_licences(tool, python):
    "Print the licence of each package of the lock; a list of those that are not allowed"
    command = [tool, f'--python={python}', '--with-system', '--format=json', '--from=mixed']
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    pins = read_pins(LOCK.read_text(encoding='utf-8'))
    rows = [row for row in rows if normalise(row['Name']) in pins]
    for row in rows: print(f"{row['Name']:36} {row['Version']:16} {' '.join(row['License'].split())[:80]}")
    wrong = [row['Name'] for row in rows if is_forbidden(row['License'])]
    print(f'\n{len(rows)} packages, {len(wrong)} under GPL or AGPL.')
    return [f'{name} is under GPL or AGPL: replace it, or leave it out of settings.ini.' for name in wrong]


def read_audit(tool):
    "`(what pip-audit found of each package, '')`, or `(None, why it found nothing)`"
    command = [tool, '-r', str(LOCK), '--disable-pip', '--no-deps', '--progress-spinner=off', '--format=json']
    done = subprocess.run(command, capture_output=True, text=True)
    try: found = json.loads(done.stdout)['dependencies']
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ['it gave no reason'])[-1]
        return None, last.split('(')[0].strip()
    if any('vulns' in o for o in found): return found, ''
    return None, 'the index that answers here has no list of them'


def list_vulnerabilities(tool):
    "Print what is known to be vulnerable, or how to find out where it cannot be looked up"
    found, why = read_audit(tool)
    if found is None:
        print('Known vulnerabilities could not be looked up, which needs a network and PyPI '
            f'({why}). Where there is one: make audit-deps')
        return []
    checked = [o for o in found if 'vulns' in o]
    for package in checked:
        for known in package['vulns']:
            fixed = ', '.join(known['fix_versions']) or 'no version yet'
            print(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
    print(f"{sum(bool(o['vulns']) for o in checked)} of {len(checked)} packages have known vulnerabilities, "
        f'{len(found) - len(checked)} are not listed.')
    return []


COMMANDS = {
    'check-machine': check_machine,
    'check-lock': check_lock,
    'licences': list_licences,
    'vulnerabilities': list_vulnerabilities}

if __name__ == '__main__': sys.exit('\n'.join(COMMANDS[sys.argv[1]](*sys.argv[2:])) or 0)
