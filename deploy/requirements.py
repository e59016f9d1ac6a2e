"""Lists for pip, from the files that hold them: `python deploy/requirements.py serve` is what a server
needs, of settings.ini; `python deploy/requirements.py versions` is the tested versions of requirements.lock."""
import re
import sys
from configparser import ConfigParser


def list_serving() -> list:
    """Requirements of the process that answers."""
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read('settings.ini', encoding='utf-8')
    return config['DEFAULT']['serve_requirements'].split()


def list_versions() -> list:
    """The version of every package that was tested, without hashes, as pip takes constraints."""
    with open('requirements.lock', encoding='utf-8') as lock: text = lock.read()
    return re.findall(r'^[\w.-]+==[^\s;\\]+', text, flags=re.M)


LISTS = dict(serve=list_serving, versions=list_versions)

if __name__ == '__main__':
    if sys.argv[1:] not in [[name] for name in LISTS]: sys.exit(f"usage: requirements.py {'|'.join(LISTS)}")
    print('\n'.join(LISTS[sys.argv[1]]()))
