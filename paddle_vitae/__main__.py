"""python -m paddle_vitae COMMAND ..., the same as the command paddle-vitae."""
from paddle_vitae.cli import main

# So multiprocessing takes this file for a script, and imports it in the processes that it starts;
# of a __main__ that is run by -m it would import nothing there. cli.py says what for.
__spec__ = None

if __name__ == '__main__':
    main()
