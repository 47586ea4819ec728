from bowerbird.cli import main

main()
