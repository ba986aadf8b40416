#: beside leaves_open.py
import leaves_open, json
left = open("left.txt", "w")
left.write("not flushed")
json.left = open("left_in_json.txt", "w")
json.left.write("not flushed either")
class Holder:
    pass
holder = Holder()
holder.file, holder.itself = open("left_in_cycle.txt", "w"), holder
holder.file.write("in a cycle")
