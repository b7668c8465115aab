module ketch.test/peers/coredns

go 1.26.0
