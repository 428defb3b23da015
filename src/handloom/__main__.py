"""python -m handloom"""

from handloom.cli.main import main

if __name__ == "__main__":
    main()
