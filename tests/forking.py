"""Commands as forks of one process that has the libraries loaded: loading them takes most commands
longer than their work. Each fork runs the installed script, with its own arguments, environment,
folder and output, and ends as a process of its own would."""
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import traceback

from imgclf_nb.base.kernels import _get_setting, _reset_process, end_fork, make_sockets

HERE = os.path.abspath(__file__)
LIBRARIES = '''pandas scipy.stats scipy.spatial sklearn.metrics sklearn.linear_model matplotlib.pyplot
    seaborn cv2 PIL.Image imagehash papermill.execute jupyter_client.manager filelock torch
    torchvision'''.split()  # none that reads the settings of the hub while it loads


def get_setting(env):
    "The variables that these libraries may have read while they were loaded"
    setting = _get_setting(env)
    return {name: value for name,value in setting.items() if not name.startswith(('HF_', 'HUGGING'))}


def get_exit_code(value):
    "What Python makes of the value of a `SystemExit`"
    if value is None: return 0
    if isinstance(value, int): return value & 255
    print(value, file=sys.stderr)
    return 1


def run_script(args, env, cwd, files):
    "In a fresh fork: the script, as in a process of its own, with these files; never returns"
    _reset_process(env, cwd)
    for number,file in enumerate(files): os.dup2(file, number)
    for file in files: os.close(file)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)
    sys.argv = args
    code = 0
    try: runpy.run_path(args[0], run_name='__main__')
    except SystemExit as end: code = get_exit_code(end.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    end_fork(code)


def open_files(out, err):
    "The file numbers of an empty input and of these outputs"
    outputs = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in (out, err)]
    return [os.open(os.devnull, os.O_RDONLY), *outputs]


def watch(caller, args, env, cwd, out, err):
    "In a fork of the server: tell the caller the script's process number, and how it ended"
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    files = open_files(out, err)  # before the caller hears of it, who may wait for the other end
    pid = os.fork()
    if pid == 0:
        caller.close()
        run_script(args, env, cwd, files)
    for file in files: os.close(file)
    caller.sendall(f'{pid}\n'.encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError): caller.sendall(f'{code}\n'.encode())  # it may have lost patience
    os._exit(0)


def serve(path):
    "Load the libraries, then fork a script for each request, until stdin ends"
    setting = get_setting(os.environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in LIBRARIES: importlib.import_module(name)
    assert 'huggingface_hub' not in sys.modules
    gc.collect()
    gc.freeze()
    door = socket.socket(socket.AF_UNIX)
    door.bind(f'{path}.new')
    door.listen(64)
    os.rename(f'{path}.new', path)
    while 0 not in select.select([door, 0], [], [])[0]:
        caller, _ = door.accept()
        request = json.loads(caller.makefile('r').readline())
        if get_setting(request['env']) != setting: caller.sendall(b'0\n')
        elif os.fork() == 0:
            door.close()
            watch(caller, **request)
        caller.close()


class CommandServer:
    "The process that forks; it ends when this one does"

    def __init__(self):
        self.path = f'{make_sockets()}/commands'
        self.process = subprocess.Popen([sys.executable, HERE, self.path], stdin=subprocess.PIPE,
            start_new_session=True, env={**os.environ, 'NO_ALBUMENTATIONS_UPDATE': '1'})


def wait_for_servers(seconds=300):
    "Wait until the servers of commands and kernels accept requests"
    paths = [os.environ.get(name) for name in ('IMGCLF_COMMANDS', 'IMGCLF_KERNELS')]
    until = time.monotonic() + seconds
    while not all(map(os.path.exists, filter(None, paths))) and time.monotonic() < until:
        time.sleep(.1)


def read_number(caller):
    "The next line of a socket, a number; not a byte more is read"
    line = b''
    while not line.endswith(b'\n'):
        byte = caller.recv(1)
        if not byte: raise ConnectionError('the server of commands has ended')
        line += byte
    return int(line)


def ask_server(args, env, cwd, out, err):
    """`(socket, process number)` of a fork that runs this script with its output appended to the
    files `out` and `err`; the socket later takes its exit code. None if there is no server for it"""
    path = os.environ.get('IMGCLF_COMMANDS', '')
    if not os.path.exists(path): return None
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(path)
    request = dict(args=args, env=env, cwd=str(cwd), out=str(out), err=str(err))
    caller.sendall(json.dumps(request).encode() + b'\n')
    pid = read_number(caller)
    if pid: return caller, pid
    caller.close()
    return None


def run_forked(args, env, cwd, out, err, timeout):
    """The exit code of a script, its output appended to the files `out` and `err`;
    None if there is no server for it"""
    answer = ask_server(args, env, cwd, out, err)
    if answer is None: return None
    caller, pid = answer
    caller.settimeout(timeout)
    with caller:
        try: return read_number(caller)
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(args, timeout)


if __name__ == '__main__': serve(sys.argv[1])
