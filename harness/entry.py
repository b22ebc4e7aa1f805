"""The command `callconv`: what must start fast is routed before anything else is imported."""

import sys


def main() -> int:
    """The exit status."""
    if sys.argv[1:2] == ["plugin"]:
        from harness.plugin_command import main as plugin

        return plugin(sys.argv[2:])
    if sys.argv[1:2] == ["abi"]:
        from harness.abi_command import main as abi

        return abi(sys.argv[2:])
    from harness.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
