"""How the notebooks read, in figures: `python tests/readability.py` prints them, `--keep` keeps them as the ratchet, and
names of notebooks (`results/metrics`, a path or a part of one) show where their wide lines and long cells are."""
import ast
import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).with_name('readability.json')
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def get_notebooks(folder: Path = ROOT/'nbs') -> list:
    """All notebooks of the project, in order."""
    return sorted(path for path in folder.rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)


def get_code_cells(path: Path) -> list:
    """The source of each code cell of a notebook."""
    cells = json.loads(path.read_text())['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']


def is_exported(source: str) -> bool:
    """Whether nbdev writes this cell into the module."""
    return re.search(r'^#\|\s*(export|exporti|exports)\s*$', source, re.M) is not None


def get_lines(source: str) -> list:
    """The lines of a cell that hold something, nbdev's directives left out."""
    return [line for line in source.split('\n') if line.strip() and not line.startswith('#|')]


def count_definitions(source: str) -> int:
    """Functions and classes at the top level of a cell; 0 for a cell of shell or magic commands."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return 0
    return sum(isinstance(node, DEFINITIONS) for node in tree.body)


def measure(paths: list) -> dict:
    """Cells and lines of these notebooks, counted as the ratchet wants them."""
    sources = [source for path in paths for source in get_code_cells(path)]
    exported = [source for source in sources if is_exported(source)]
    defining = [source for source in exported if count_definitions(source)]
    sizes = [len(get_lines(source)) for source in defining]
    lines = [line for source in sources for line in get_lines(source)]
    exported_lines = [line for source in exported for line in get_lines(source)]
    single = sum(count_definitions(source) == 1 for source in defining)
    return dict(
        cells_that_define=len(defining),
        median_lines=statistics.median(sizes) if sizes else 0,
        ninetieth_percentile_lines=sorted(sizes)[int(.9*len(sizes))] if sizes else 0,
        longest_cell=max(sizes, default=0),
        single_definition_percent=round(100*single/max(1, len(defining)), 1),
        code_lines=len(lines),
        lines_over_100_percent=round(100*sum(len(line) > 100 for line in lines)/max(1, len(lines)), 2),
        exported_lines_over_110=sum(len(line) > 110 for line in exported_lines))


def show(path: Path):
    """Print a notebook's long cells and wide lines, each with its place."""
    for number, source in enumerate(get_code_cells(path)):
        size, definitions = len(get_lines(source)), count_definitions(source)
        if is_exported(source) and definitions and (size > 15 or definitions > 1):
            first = next(line for line in source.split('\n') if re.match(r'(def|class|async)\b', line))
            print(f'{path.stem} code cell {number}: {size} lines, {definitions} definitions: {first[:70]}')
        for line in get_lines(source):
            if len(line) > 100:
                print(f'{path.stem} code cell {number}: {len(line)} wide: {line.strip()[:70]}')


def main(words: list):
    """Measure all notebooks, or show the places in the named ones."""
    paths = get_notebooks()
    names = [word for word in words if not word.startswith('--')]
    chosen = [path for path in paths if not names or any(name in str(path) for name in names)]
    if names:
        for path in chosen:
            show(path)
    figures = measure(chosen)
    print(json.dumps(figures, indent=1))
    if '--keep' in words and not names:
        KEPT.write_text(json.dumps(figures, indent=1) + '\n')


if __name__ == '__main__':
    main(sys.argv[1:])
