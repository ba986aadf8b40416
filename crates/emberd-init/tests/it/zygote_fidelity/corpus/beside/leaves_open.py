left = open("left_by_module.txt", "w")
left.write("by a module")
