import cProfile, io, pstats
profile = cProfile.Profile()
profile.enable()
sorted([3, 1, 2])
profile.disable()
print(sorted(function[2] for function in pstats.Stats(profile).stats))
