# -*- coding: latin-1 -*-
print('grün')
raise ValueError('grün')
