print('before')
print('grün')
