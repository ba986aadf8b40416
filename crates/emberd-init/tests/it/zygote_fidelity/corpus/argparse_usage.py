#: arg --wrong
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--right")
parser.parse_args()
