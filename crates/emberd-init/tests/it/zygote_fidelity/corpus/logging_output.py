import logging
logging.basicConfig(format="%(levelname)s %(funcName)s %(lineno)d %(module)s %(message)s")
def function():
    logging.warning("something")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("caught", stack_info=True)
function()
