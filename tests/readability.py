"""How the notebooks read, in figures, and the words that they use.

`python tests/readability.py` prints the figures and the words that the vocabulary has better ones for,
`--keep` writes what became better into readability.json, by which the gate measures,
names of notebooks (`results/metrics`, a path or a part of one) show their wide lines and long cells."""
import ast
import io
import json
import re
import statistics
import sys
import tokenize
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


# What to say instead (style: the field's own words); keys of files and parameters keep their names
VOCABULARY = {
    r'pictures?': 'image',
    r'films?': 'video, frame, or X-ray',
    r'rightly': 'correctly',
    r'in peace': 'specificity',
    r'false alarms?': 'false positive',
    r'missed cases?': 'false negative',
    r'commonest': 'most frequent, majority class',
    r'labels allow': 'label ceiling',
    r'too sure': 'overconfident',
    r'too modest': 'underconfident',
    r'twins?': 'duplicate, near-duplicate, image of the same patient',
    r'drawings?': 'resample',
    r'goes on|went on': 'resumes, continues',
    r'could have been seen': 'minimum detectable difference',
    r'stays? silent': 'abstain',
    r'drawn (?:miniature|image)s?': 'synthetic miniature'}


def get_prose(source: str, markdown: bool) -> list:
    """The texts that people read: a Markdown cell, or the comments and sentences of a code cell."""
    if markdown: return [source]
    try: tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError): return []
    texts = [token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING)]
    return [text for text in texts if ' ' in text.strip('\'"')]  # a single word is a key


def find_words(text: str) -> list:
    """Words of a text that the vocabulary has better ones for; names in backticks and braces are none."""
    shown = re.sub(r'`[^`]*`|\{[^{}]*\}|\[[\'"][^\]]*\]|-p \w+|\w+=', ' ', text)
    found = re.findall(rf"(?i)(?<![\w'\"/])({'|'.join(VOCABULARY)})(?![\w'\"=:])", shown)
    return [word.lower() for word in found]


def find_notebook_words(path: Path) -> list:
    """Such words of a notebook, each with the beginning of its text."""
    found = []
    for cell in json.loads(path.read_text())['cells']:
        for text in get_prose(''.join(cell['source']), cell['cell_type'] == 'markdown'):
            found += [f'{path.stem}: {word}: {text[:90]!r}' for word in find_words(text)]
    return found


def is_worse(figures: dict, kept: dict) -> list:
    """Names of the figures that are worse than those that were kept."""
    higher = {'single_definition_percent'}  # the others are better when they are lower
    names = ('median_lines', 'single_definition_percent', 'lines_over_100_percent',
        'exported_lines_over_110', 'longest_cell')
    return [name for name in names if (figures[name] - kept[name])*(-1 if name in higher else 1) > 0]


def main(words: list):
    """Measure all notebooks, or show the places in the named ones."""
    paths = get_notebooks()
    names = [word for word in words if not word.startswith('--')]
    chosen = [path for path in paths if not names or any(name in str(path) for name in names)]
    for path in chosen:
        if names: show(path)
        for line in find_notebook_words(path): print(line)
    figures = measure(chosen)
    print(json.dumps(figures, indent=1))
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else figures
    if '--keep' in words and not names and not is_worse(figures, kept):
        KEPT.write_text(json.dumps(figures, indent=1) + '\n')


if __name__ == '__main__':
    main(sys.argv[1:])
