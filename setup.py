"The package's metadata, all of it from settings.ini"
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='], interpolation=None)
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
EXTRAS = 'dev bench formats search serve postgresql browser'.split()

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    license='Apache-2.0', packages=find_packages(include=['imgclf_nb*']), package_data={'imgclf_nb.server': ['static/*']},
    python_requires='>=' + cfg['min_python'] + ',<3.14',  # from 3.14 on annotations are lazy, and check_parameters reads them
    install_requires=cfg['requirements'].split(),
    extras_require={name: cfg[f'{name}_requirements'].split() for name in EXTRAS},
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['imgclf_nb=imgclf_nb._modidx:d'],
        'jupyter_client.kernel_provisioners': ['imgclf-fork=imgclf_nb.base.kernels:ForkProvisioner']},
)
