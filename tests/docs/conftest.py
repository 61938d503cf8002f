"""The pages run commands as the tests of the commands do."""

from tests.commands.conftest import command as command, process as process
