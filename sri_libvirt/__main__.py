"""`python -m sri_libvirt`: the same as the console script."""

from sri_libvirt.cli.main import main

if __name__ == "__main__":
    main()
