"""What docs/reference/image.md promises, as the image's own Python finds it in a container of Docker; prints JSON."""

import glob
import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import sysconfig

TIME = 1577836800  # 2020-01-01 00:00:00 UTC
OF_DOCKER = {"/.dockerenv", "/etc/mtab"}  # what it adds to a container; what it mounts is on another device
COMMANDS = ("pip check", "python -m pip --version", "gcc --version", "g++ --version", "dpkg --audit")


def ran(command):
    """Its status and all that it printed."""
    done = subprocess.run(
        command.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return [done.returncode, done.stdout.strip()]


def files():
    """Everything in the image but folders, whose times change with what Docker puts into them."""
    device = os.lstat("/").st_dev
    for folder, below, names in os.walk("/"):
        below[:] = [name for name in below if os.lstat(os.path.join(folder, name)).st_dev == device]
        links = [name for name in below if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            if state.st_dev == device and path not in OF_DOCKER:
                yield path, state.st_mtime


times = dict(files())
with open("/proc/1/cmdline", "rb") as stream:
    first = stream.read().decode().split("\0")[:4]
system = platform.freedesktop_os_release()
own = pwd.getpwnam("envbuild")
print(
    json.dumps(
        {
            "entry point": first,
            "python": sys.executable,
            "version": sys.version_info[:2],
            "programs": {name: shutil.which(name) for name in ("python", "pip", "deepspeed", "torchrun")},
            "packages": sysconfig.get_path("purelib"),
            "folder": os.getcwd(),
            "in the folder": os.listdir(),
            "user": [os.getuid(), os.getgid(), pwd.getpwuid(os.getuid()).pw_name],
            "envbuild": [own.pw_uid, own.pw_gid],
            "commands": {command: ran(command) for command in COMMANDS},
            "Python.h": os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")),
            "system": [system["ID"], system["VERSION_ID"]],
            "secrets": sorted(
                path
                for pattern in ("/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/ssh/*host*key*")
                for path in glob.glob(pattern)
            ),
            "walked": len(times),
            "of another time": sorted(path for path, time in times.items() if time != TIME)[:20],
        }
    )
)
