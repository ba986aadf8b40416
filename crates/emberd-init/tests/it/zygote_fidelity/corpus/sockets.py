import socket
left, right = socket.socketpair()
left.send(b"x")
print(right.recv(1))
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
client.sendall(b"hello")
print(accepted.recv(5))
