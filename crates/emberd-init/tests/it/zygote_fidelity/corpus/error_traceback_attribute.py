import traceback
def inner():
    raise ValueError
try:
    inner()
except ValueError as error:
    print([entry.tb_frame.f_code.co_name for entry in
           (error.__traceback__, error.__traceback__.tb_next)])
    traceback.print_exc()
    print(traceback.format_exc())
