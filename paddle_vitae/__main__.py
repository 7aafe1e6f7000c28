"""python -m paddle_vitae COMMAND ..., the same as the command paddle-vitae."""
from paddle_vitae.cli import main

if __name__ == '__main__':
    main()
