#: stdin 1 + 1
#: stdin 1 / 0
import code
code.interact(banner="", exitmsg="bye", local={})
