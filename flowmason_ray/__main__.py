"""`python -m flowmason_ray` is `fm`."""

from flowmason_ray.cli import main

if __name__ == "__main__":
    main()
