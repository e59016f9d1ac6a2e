"""Run a command with the words of the environment variable ARGS: `ARGS="-p epochs 5" python tests/with_args.py COMMAND … [-- …]`

The words are split at spaces, quotes keep words together, and nothing in them is run. They stand before
a -- of the command, which ends its options, so that the name of a data set cannot be one."""
import os
import shlex
import sys


def add_words(command, text):
    "The command with these words before its --, or at its end"
    words = shlex.split(text)
    at = command.index('--') if '--' in command else len(command)
    return [*command[:at], *words, *command[at:]]


if __name__ == '__main__':
    try: command = add_words(sys.argv[1:], os.environ.get('ARGS', ''))
    except ValueError as error: sys.exit(f'ARGS cannot be split into words ({error}): close each quote.')
    os.execv(command[0], command)
