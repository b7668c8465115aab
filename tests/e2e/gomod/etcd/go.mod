module ketch.test/peers/etcd

go 1.26.0
