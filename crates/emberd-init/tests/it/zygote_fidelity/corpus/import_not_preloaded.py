import colorsys, wave, xml.dom.minidom
print(colorsys.rgb_to_hsv(1, 0, 0))
print(xml.dom.minidom.parseString("<a><b/></a>").toxml())
